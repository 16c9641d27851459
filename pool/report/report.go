// Package report makes one HTML file of the record of a run, which package events describes: what was
// done when, for how long, and why. The file needs nothing else: no network, no other file, and no
// script but for its filter and zoom.
//
//	POOLREADY_DIR=out go test ./...
//	go run github.com/poolready/poolready/cmd/poolreport out
package report

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/poolready/poolready/pool/events"
)

var (
	//go:embed report.html
	page string
	//go:embed report.css
	style string
	//go:embed report.js
	script string
)

// WriteFile makes a report of the events in a directory and those below it, and writes it to file, whole
// or not at all; "" is "report.html" in the directory. It returns the file's path.
func WriteFile(file, dir string) (string, error) {
	logs, err := events.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("report: %w", err)
	}
	if file == "" {
		file = filepath.Join(dir, "report.html")
	}
	var b bytes.Buffer
	if err := Write(&b, logs, filepath.Dir(file)); err != nil {
		return "", err
	}
	if err := os.WriteFile(file+".new", b.Bytes(), 0o600); err != nil {
		return "", fmt.Errorf("report: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return "", fmt.Errorf("report: %w", err)
	}
	return file, nil
}

// Write writes a report of logs, at least one, to w. dir is the directory in which it will lie, for its
// links to evidence.
func Write(w io.Writer, logs []events.Log, dir string) error {
	sum := sha256.Sum256([]byte(script))
	t, err := template.New("report").Funcs(template.FuncMap{
		"seconds": seconds, "css": func() template.CSS { return template.CSS(style) }, //nolint:gosec // they are our own
		"js":     func() template.JS { return template.JS(script) }, //nolint:gosec // it is our own
		"policy": func() string { return "script-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'" },
	}).Parse(page)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := t.Execute(w, newModel(logs, dir)); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// A link is one to a directory of evidence.
type link struct {
	Text string
	Href template.URL
}

// newLink returns a link that works from a file in dir, or nil if there is no evidence.
func newLink(log events.Log, dir, evidence string) *link {
	if evidence == "" {
		return nil
	}
	path := log.Path(evidence)
	u := url.URL{Scheme: "file", Path: filepath.ToSlash(path)}
	if !filepath.IsAbs(path) {
		u = url.URL{Path: "./" + filepath.ToSlash(path)}
	} else if abs, err := filepath.Abs(dir); err == nil {
		if rel, err := filepath.Rel(abs, path); err == nil && strings.Count(rel, "..") < 4 {
			u = url.URL{Path: "./" + filepath.ToSlash(rel) + "/"}
		}
	}
	return &link{Text: path, Href: template.URL(u.String())} //nolint:gosec // url.URL has escaped it
}
