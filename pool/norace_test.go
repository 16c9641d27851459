//go:build !race

package pool_test

const many = 40

const raceDetector = false
