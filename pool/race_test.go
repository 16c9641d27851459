//go:build race

package pool_test

// many is a number of pools that the race detector, which makes a simulated vCenter about
// twelve times slower, can build in the time that a test may take.
const many = 8

// raceDetector makes everything many times slower.
const raceDetector = true
