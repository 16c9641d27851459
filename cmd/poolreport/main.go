// Poolreport makes one HTML file of the record of a run, which POOLREADY_DIR=DIR go test ./... writes:
//
//	go run github.com/poolready/poolready/cmd/poolreport [-o FILE] DIR
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/poolready/poolready/pool/report"
)

func main() {
	out := flag.String("o", "", "write to `FILE`, not to DIR/report.html")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: poolreport [-o FILE] DIR")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	file, err := report.WriteFile(*out, flag.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(file)
}
