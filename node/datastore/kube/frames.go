package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/watch"

	"weft/node/datastore"
)

// maxFrame bounds one event of a watch in bytes. The API server takes no object larger than 3 MiB.
const maxFrame = 8 << 20

// frame is one event of a watch: raw is the object in the encoding of the watch.
type frame struct {
	event watch.EventType
	raw   []byte
}

// frames reads the events of a watch.
type frames interface{ next() (frame, error) }

// jsonFrames are JSON values, one after the other.
type jsonFrames struct{ decoder *json.Decoder }

func (j *jsonFrames) next() (frame, error) {
	var f struct {
		Type   watch.EventType `json:"type"`
		Object json.RawMessage `json:"object"`
	}
	err := j.decoder.Decode(&f)
	return frame{f.Type, f.Object}, err
}

// protobufFrames are messages of type WatchEvent, each after its length in 4 bytes.
type protobufFrames struct {
	reader io.ReadCloser
	buffer []byte
}

func newProtobufFrames(r io.ReadCloser) *protobufFrames {
	return &protobufFrames{protobuf.LengthDelimitedFramer.NewFrameReader(r), make([]byte, 64<<10)}
}

func (p *protobufFrames) next() (frame, error) {
	n := 0
	for {
		m, err := p.reader.Read(p.buffer[n:])
		n += m
		if errors.Is(err, io.ErrShortBuffer) && len(p.buffer) < maxFrame {
			p.buffer = append(p.buffer, make([]byte, len(p.buffer))...)
			continue
		}
		if err != nil {
			return frame{}, err
		}
		break
	}
	var e metav1.WatchEvent
	if err := e.Unmarshal(p.buffer[:n]); err != nil {
		return frame{}, fmt.Errorf("this is no event in Kubernetes' protobuf: %w", err)
	}
	return frame{watch.EventType(e.Type), e.Object.Raw}, nil
}

// unwrap takes an object in Kubernetes' protobuf out of its envelope: "k8s\0", then a runtime.Unknown.
func unwrap(data []byte) ([]byte, error) {
	if len(data) < 4 || string(data[:4]) != "k8s\x00" {
		return nil, errors.New("this is no object in Kubernetes' protobuf")
	}
	var u runtime.Unknown
	if err := u.Unmarshal(data[4:]); err != nil {
		return nil, err
	}
	return u.Raw, nil
}

// failure is the error that an event of type ERROR holds.
func (s *source) failure(raw []byte) error {
	var st metav1.Status
	var err error
	if s.pods {
		if raw, err = unwrap(raw); err == nil {
			err = st.Unmarshal(raw)
		}
	} else {
		err = json.Unmarshal(raw, &st)
	}
	if err != nil {
		return fmt.Errorf("the server ends the watch for a reason that cannot be read: %w", err)
	}
	return apierrors.FromObject(&st)
}

// change reads an event of a watch that brings an object. It has no key when it is no change here: a pod that is
// no endpoint.
func (s *source) change(f frame) (datastore.Change, error) {
	if s.pods {
		return s.podChange(f)
	}
	key, o, revision, err := s.decode(f.raw)
	if key.Name == "" {
		return datastore.Change{}, err
	}
	c := datastore.Change{Key: key, Object: o, Err: err, Revision: revision}
	if f.event == watch.Deleted {
		c.Object, c.Err = nil, nil
	}
	return c, nil
}

// bookmark reads the revision of a bookmark.
func (s *source) bookmark(raw []byte) (string, error) {
	if !s.pods {
		var m meta
		err := json.Unmarshal(raw, &m)
		return m.Metadata.ResourceVersion, err
	}
	pod, err := decodePod(raw)
	if err != nil {
		return "", err
	}
	return pod.ResourceVersion, nil
}
