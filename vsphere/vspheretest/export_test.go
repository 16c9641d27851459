package vspheretest

// BuildMu is held by tests that start a vcsim themselves.
var BuildMu = &buildMu
