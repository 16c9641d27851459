//go:build !race

package pool_test

const many = 20

const raceDetector = false
