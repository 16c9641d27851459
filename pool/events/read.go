package events

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A Log is what one process has written.
type Log struct {
	File  string // its path, as it was read
	About About
	// Events are in the order in which they began. What takes time is one Event; it is Open, and as long as
	// the process is known to have lived, if its end is missing.
	Events []Event
	// Bad counts the lines that could not be read: a last one that is cut, as a rule.
	Bad int
}

// ReadDir reads all files of a directory and of those in it, in the order of their first events. One
// that is no record is left out; it is an error if there is none.
func ReadDir(dir string) ([]Log, error) {
	var logs []Log
	var faults []error
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() || filepath.Ext(path) != ".jsonl" {
			return nil
		}
		log, err := ReadFile(path)
		if err != nil {
			faults = append(faults, err)
			return nil
		}
		logs = append(logs, log)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(logs) == 0 {
		return nil, errors.Join(append(faults, fmt.Errorf("events: %s: no record of a run in it; POOLREADY_DIR=DIR go test ... writes one to DIR/events", dir))...)
	}
	slices.SortStableFunc(logs, func(a, b Log) int { return a.Events[0].Time.Compare(b.Events[0].Time) })
	return logs, nil
}

// ReadFile reads one file.
func ReadFile(path string) (Log, error) {
	f, err := os.Open(path)
	if err != nil {
		return Log{}, err
	}
	defer f.Close()
	log, err := Read(f)
	if err != nil {
		return Log{}, fmt.Errorf("events: %s: %w", path, err)
	}
	log.File = path
	return log, nil
}

// maxLine is what a line may have; the longest are plans of a thousand pools.
const maxLine = 32 << 20

// Read reads what one process has written. Lines that are cut, as the last of a process that was
// killed, are left out and counted.
func Read(r io.Reader) (Log, error) {
	var log Log
	var last time.Time
	spans := map[int]int{} // ID -> index of Events
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	for s.Scan() {
		line := bytes.TrimSpace(s.Bytes())
		if len(line) == 0 {
			continue
		}
		var e Event
		if err := json.Unmarshal(line, &e); err != nil || e.Kind == "" || e.Time.IsZero() {
			log.Bad++
			continue
		}
		if len(log.Events) == 0 {
			switch {
			case e.Kind != Process || e.About == nil:
				return log, errors.New("the first line is not that of a process")
			case e.About.Version != Version:
				return log, fmt.Errorf("it has format %d, want %d", e.About.Version, Version)
			}
			log.About = *e.About
		}
		if e.Time.After(last) {
			last = e.Time
		}
		if i, known := spans[e.ID]; known && e.ID > 0 {
			log.Events[i] = e
			continue
		}
		spans[e.ID] = len(log.Events)
		log.Events = append(log.Events, e)
	}
	if err := s.Err(); err != nil {
		return log, err
	}
	if len(log.Events) == 0 {
		return log, errors.New("it has no line that can be read")
	}
	for i, e := range log.Events {
		if e.Open {
			log.Events[i].Seconds = max(0, last.Sub(e.Began()).Seconds())
		}
	}
	slices.SortStableFunc(log.Events[1:], compare)
	return log, nil
}

// Path returns where an Evidence lies now: what was next to the events, or below, is looked for there,
// since the whole directory may have been moved, as CI does with artifacts.
func (l Log) Path(evidence string) string {
	rel, err := filepath.Rel(l.About.Events, evidence)
	if evidence == "" || err != nil || l.File == "" {
		return evidence
	}
	if _, err := os.Stat(evidence); err == nil && strings.Count(rel, "..") > 3 {
		return evidence // it has nothing to do with the events
	}
	if moved := filepath.Join(filepath.Dir(l.File), rel); exists(moved) {
		return moved
	}
	return evidence
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
