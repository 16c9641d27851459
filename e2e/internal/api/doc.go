// Package api holds the exported API of the packages that users import, one line for each part of
// it, in the files of testdata. Its test fails where code and files differ, so that no change of
// the API goes unnoticed. "make api" records one that is meant.
package api
