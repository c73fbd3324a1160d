package cni

import (
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// spares are files of the journal whose attachments are gone, kept for the next: where pods come
// and go, to make a file and to remove one cost more than all else that the journal does (ext4 looks
// for an inode that was not in use within the last seconds). They are hidden files: what a crash
// leaves of them is swept away when the journal is opened.
type spares struct {
	mu   sync.Mutex
	free []string
	made int
}

const (
	maxSpares    = 256
	maxSpareSize = maxJournalFile / 2 // bytes; lines of earlier attachments stay in front of the last one
)

// put takes the file at path, which is not in use any more, out of the journal. Its error is
// os.Rename's: the file is still there.
func (s *spares) put(path string) error {
	st, err := os.Lstat(path)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil || !st.Mode().IsRegular() || st.Size() == 0 || st.Size() > maxSpareSize || len(s.free) >= maxSpares {
		return os.Remove(path)
	}
	s.made++
	to := filepath.Join(filepath.Dir(path), ".spare-"+strconv.Itoa(s.made))
	if err := os.Rename(path, to); err != nil {
		return err
	}
	s.free = append(s.free, to)
	return nil
}

// use makes path of a spare file, with line as its last one. It returns false when that cannot be
// done, and leaves nothing at path then.
func (s *spares) use(path string, line []byte) bool {
	s.mu.Lock()
	if len(s.free) == 0 {
		s.mu.Unlock()
		return false
	}
	from := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	s.mu.Unlock()
	if appendFile(from, line) && os.Rename(from, path) == nil {
		return true
	}
	_ = os.Remove(from)
	return false
}
