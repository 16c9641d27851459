//go:build !race

package pool_test

const many = 60

const raceDetector = false
