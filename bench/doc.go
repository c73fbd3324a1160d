// Package bench is the demo and the measurements: what a person sees of the project on one machine,
// and the figures that it claims, each with its denominator and a control beside it. It drives the
// lab and the compilers; nothing of the node depends on it.
package bench
