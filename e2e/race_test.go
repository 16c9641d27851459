//go:build race

package e2e

// raceDetector makes everything many times slower.
const raceDetector = true
