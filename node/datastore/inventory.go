package datastore

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Inventory is a Store that knows of itself which hosts the cluster has, whatever records their nodes wrote: Kubernetes.
// What such a host has is its own, although its record is gone; the record of one that is gone can go.
type Inventory interface {
	// Hosts returns the names of all hosts.
	Hosts(ctx context.Context) (map[string]bool, error)
	// HasHost tells whether a host is there now.
	HasHost(ctx context.Context, name string) (bool, error)
}

// ConditionWriter is a Store that keeps what is deleted until those who set its finalizers took them away, and whose
// objects have a status that is written apart, even of those that this program does not understand: Kubernetes.
type ConditionWriter interface {
	// WriteConditions puts conditions in place of those that the status of a resource has; it tells whether that was a
	// change. It fails with ErrConflict when the resource is not of this resource version any more. Conditions without a
	// generation come from who could not read the resource: they are of the generation that it has, keep their time if they
	// say nothing new, and leave the others in place.
	WriteConditions(ctx context.Context, key Key, version string, conditions []metav1.Condition) (written bool, err error)
}
