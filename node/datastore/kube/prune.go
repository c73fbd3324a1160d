package kube

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kept are the fields of a protobuf message that are read, by number; of one with an entry of its own only those.
type kept map[protowire.Number]kept

// podKept is what is read of a pod (core/v1 and meta/v1 generated.proto): a tenth of what most pods have.
var podKept = func() kept {
	ports := kept{6: nil, 24: nil} // ports, restartPolicy of a container
	return kept{
		1: {1: nil, 3: nil, 5: nil, 6: nil, 8: nil, 11: nil, 12: nil}, // name, namespace, uid, resourceVersion, creationTimestamp, labels, annotations
		2: {2: ports, 8: nil, 10: nil, 11: nil, 20: ports},            // containers, serviceAccountName, nodeName, hostNetwork, initContainers
		3: {1: nil, 6: nil, 12: nil},                                  // phase, podIP, podIPs
	}
}()

// prune appends to dst what of a message is kept.
func prune(dst, message []byte, keep kept) ([]byte, error) {
	for len(message) > 0 {
		number, kind, tag := protowire.ConsumeTag(message)
		if tag < 0 {
			return dst, protowire.ParseError(tag)
		}
		size := protowire.ConsumeFieldValue(number, kind, message[tag:])
		if size < 0 {
			return dst, protowire.ParseError(size)
		}
		parts, wanted := keep[number]
		switch {
		case wanted && parts != nil && kind == protowire.BytesType:
			value, _ := protowire.ConsumeBytes(message[tag:])
			dst = append(dst, message[:tag]...)
			at := len(dst)
			var err error
			if dst, err = prune(dst, value, parts); err != nil {
				return dst, err
			}
			dst = slices.Insert(dst, at, protowire.AppendVarint(nil, uint64(len(dst)-at))...)
		case wanted:
			dst = append(dst, message[:tag+size]...)
		}
		message = message[tag+size:]
	}
	return dst, nil
}

// podDecoder reads pods, one after the other. Its zero value works.
type podDecoder struct{ pruned []byte }

// decode reads what is kept of a pod.
func (d *podDecoder) decode(raw []byte) (*corev1.Pod, error) {
	var err error
	if d.pruned, err = prune(d.pruned[:0], raw, podKept); err != nil {
		return nil, err
	}
	p := &corev1.Pod{}
	return p, p.Unmarshal(d.pruned)
}

// errBroken: what is read ends too early.
type errBroken struct{ error }

// Unwrap returns the reader's error.
func (e errBroken) Unwrap() error { return e.error }

// wire reads protobuf from a stream.
type wire struct {
	*bufio.Reader
	buffer []byte
}

// field reads the next tag of a message of which left bytes are to come; number is 0 at its end.
func (w *wire) field(left *int64) (number protowire.Number, kind protowire.Type, err error) {
	if *left == 0 {
		return 0, 0, nil
	}
	tag, err := w.varint(left)
	if errors.Is(err, io.EOF) && *left > math.MaxInt64/2 {
		return 0, 0, nil // the outermost message ends with the stream
	}
	number, kind = protowire.DecodeTag(tag)
	if err == nil && !number.IsValid() {
		err = errors.New("a field has no valid number")
	}
	return number, kind, err
}

func (w *wire) varint(left *int64) (uint64, error) {
	var v uint64
	for i := range binary.MaxVarintLen64 {
		b, err := w.ReadByte()
		if err != nil {
			if i > 0 {
				err = io.ErrUnexpectedEOF
			}
			return 0, errBroken{err}
		}
		if *left--; *left < 0 {
			return 0, errors.New("a field is longer than its message")
		}
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			return v, nil
		}
	}
	return 0, errors.New("a number has too many bytes")
}

// length reads how long a field is that is a message.
func (w *wire) length(kind protowire.Type, left *int64) (int64, error) {
	n, err := w.varint(left)
	if err == nil && (kind != protowire.BytesType || n > uint64(*left)) {
		err = fmt.Errorf("a field of type %d has %d bytes", kind, n)
	}
	*left -= int64(n)
	return int64(n), err
}

// bytes reads a field that is a message; what it returns is valid until the next call.
func (w *wire) bytes(kind protowire.Type, left *int64) ([]byte, error) {
	n, err := w.length(kind, left)
	if err == nil && n > maxFrame {
		err = fmt.Errorf("an object has %d bytes, more than %d", n, maxFrame)
	}
	if err != nil {
		return nil, err
	}
	w.buffer = slices.Grow(w.buffer[:0], int(n))[:n]
	if _, err := io.ReadFull(w, w.buffer); err != nil {
		return nil, errBroken{err}
	}
	return w.buffer, nil
}

// eachPod reads an answer of a list of pods as it comes, and calls f with each. What f gets may be kept.
func eachPod(r io.Reader, f func(*corev1.Pod)) (*metav1.ListMeta, error) {
	w := &wire{Reader: bufio.NewReaderSize(r, 64<<10)}
	magic := make([]byte, 4)
	if _, err := io.ReadFull(w, magic); err != nil {
		return nil, errBroken{err}
	}
	if string(magic) != "k8s\x00" {
		return nil, errors.New("this is no object in Kubernetes' protobuf")
	}
	envelope, list := int64(math.MaxInt64), &metav1.ListMeta{}
	for { // the fields of a runtime.Unknown
		number, kind, err := w.field(&envelope)
		if err != nil || number == 0 {
			return list, err
		}
		if number != 2 { // raw
			if _, err := w.bytes(kind, &envelope); err != nil {
				return nil, err
			}
			continue
		}
		size, err := w.length(kind, &envelope)
		if err == nil {
			err = w.pods(size, list, f)
		}
		if err != nil {
			return nil, err
		}
	}
}

// pods reads a PodList of so many bytes.
func (w *wire) pods(left int64, list *metav1.ListMeta, f func(*corev1.Pod)) error {
	var d podDecoder
	for {
		number, kind, err := w.field(&left)
		if err != nil || number == 0 {
			return err
		}
		raw, err := w.bytes(kind, &left)
		switch {
		case err != nil:
		case number == 1: // metadata
			err = list.Unmarshal(raw)
		case number == 2: // items
			var p *corev1.Pod
			if p, err = d.decode(raw); err == nil {
				f(p)
			}
		}
		if err != nil {
			return err
		}
	}
}
