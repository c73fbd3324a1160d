// Package e2e holds the tests of the whole: real binaries, real store, real kernel, in a lab of
// network namespaces. It has no code of its own.
package e2e
