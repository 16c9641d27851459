// Package events is the record of a run: what package pool did, when, why, and how it ended, as JSON
// lines, for a report (package report) and for programs of one's own.
//
// Each process writes one file, named PROGRAM-TIME-PID.jsonl, into a directory that all processes of one
// "go test ./..." may share: pool.Spec.Events, or "events" in the directory that the environment variable
// POOLREADY_DIR names, or, with go test -artifacts, "_artifacts/poolready-events" in that of -outputdir.
// Without any of them nothing is recorded.
//
// # Format
//
// A line is one [Event]. Lines are written whole, in one call each, when what they tell has happened, so
// that a process which is killed leaves all but, at most, its last one. The first line of a file is a
// "process", with the Version of the format. Later versions may add kinds and fields, which a reader
// must ignore; anything else changes the Version.
//
// What takes time is two lines with the same ID: one, with Open, when it begins, and one when it has
// ended, which repeats all of the first. One whose second line is missing was going on when the process
// ended. IDs are unique in a file.
//
//	kind      span  what; the fields that it has, beside Time, Kind and Set
//	process         a process, of which the file is; Process
//	setup     yes   Open, Ensure, Rebuild, or the rebuild of a pool between tests; Name, Calls, Error
//	plan            what a setup does, and why; Items, Expect
//	stage     yes   a stage of it; Stage, Count and Failed, of its hosts, Calls
//	host      yes   a host in a stage; Stage, Host, Role, Pool, Expect, Text (what became of it), Error
//	phase     yes   a part of that, such as "boot", "clone" or "snapshot"; Stage, Host, Role, Pool, Name, Error
//	step      yes   a step on a host; as phase
//	need      yes   a wait for a service of an earlier host; as phase
//	check           a check of a host, with Start and Seconds; as phase, with Want, Got, and Error, if the
//	                check itself failed
//	wait      yes   a wait for another process or test; Name (what waits for what), Pool, Test, Text (for whom, as
//	                last read), Error
//	lease     yes   a lease of this process; Pool, 0 for the claim to build, Name (its purpose), Error
//	acquire   yes   what a test waits in Set.Acquire; Test, Pool, Error
//	test      yes   a test's use of a pool; Test, Pool, Text (what became of the pool), Evidence, Error if it failed
//	reset     yes   a reset of a pool, with its proof; Pool, Test (that had used it), Error
//	failure         why a host, a pool or a test failed; Stage, Host, Pool, Test, Name (the step, need or
//	                check), Error, Evidence, Infrastructure
//	note            a line of the log that is none of the above; Text
//	calls           calls to the hypervisor of the whole process so far, when a set is closed; Calls
//	cut             nothing more is recorded of this process; Text says why
//
// Texts are without the secrets of Spec.SSH, and of each no more than MaxText bytes; a file has at most
// MaxFile. Calls have the calls that the process made meanwhile, also for others, by method, if the
// Provider is a pool.CallCounter.
package events
