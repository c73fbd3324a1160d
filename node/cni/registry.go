package cni

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"weft/internal/kernel"
	"weft/model"
)

// Registry is the journal of what is attached on this host: one file per attachment, so that one
// damaged file costs one pod. A file has a line for each state; the last one counts. It is safe for concurrent use.
type Registry struct {
	dir    string
	log    *slog.Logger
	spares spares

	mu       sync.Mutex
	all      map[key]*attachment // values are replaced, never changed
	shown    map[key]bool        // in Endpoints
	byAddr   map[netip.Addr]key  // who has an address on a link
	byRecord map[recordID]key    // whose record it is
	onChange func()
	onHide   func(model.EndpointID)

	files [16]sync.Mutex // of the entries' files, by key: taken before mu
}

const (
	maxJournalFile = 64 << 10 // bytes; a line of ours has about 600
	quarantineDir  = "quarantine"
)

// OpenRegistry reads the journal in dir (created if absent, mode 0700). A damaged file is moved to
// dir/quarantine and logged; it is not an error.
func OpenRegistry(dir string, log *slog.Logger) (*Registry, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &Registry{dir: dir, log: log, all: map[key]*attachment{}, shown: map[key]bool{},
		byAddr: map[netip.Addr]key{}, byRecord: map[recordID]key{}}
	if err := os.MkdirAll(filepath.Join(dir, quarantineDir), 0o700); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() || !strings.HasSuffix(e.Name(), ".json") || e.Name()[0] == '.' {
			r.sweep(e)
			continue
		}
		a, err := r.load(e.Name())
		if err != nil {
			r.quarantine(e.Name(), err)
			continue
		}
		r.set(a)
	}
	return r, nil
}

// sweep removes what an interrupted write left: a temporary file begins with a dot.
func (r *Registry) sweep(e fs.DirEntry) {
	if name := e.Name(); !e.IsDir() && name[0] == '.' {
		if err := os.Remove(filepath.Join(r.dir, name)); err != nil {
			r.log.Warn("journal: an unfinished file stays", "file", name, "err", err)
		}
	}
}

func (r *Registry) load(name string) (*attachment, error) {
	f, err := os.Open(filepath.Join(r.dir, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxJournalFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxJournalFile {
		return nil, fmt.Errorf("the file is larger than %d bytes", maxJournalFile)
	}
	a, err := decodeJournal(lastLine(b))
	if err != nil {
		return nil, err
	}
	if a.key().file() != name {
		return nil, fmt.Errorf("the file holds %s", a.key())
	}
	return a, nil
}

func (r *Registry) quarantine(name string, why error) {
	to := filepath.Join(r.dir, quarantineDir, name)
	err := os.Rename(filepath.Join(r.dir, name), to)
	r.log.Error("journal: a damaged entry is set aside; its pod keeps its link, but this node does not route to it: delete the pod",
		"file", name, "movedTo", to, "err", why, "moveErr", err)
}

// Quarantined lists the files that were set aside because they are damaged.
func (r *Registry) Quarantined() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(r.dir, quarantineDir))
	if err != nil {
		return nil, fmt.Errorf("list quarantined journal entries: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// Endpoints returns the endpoints that routes are wanted for: a fresh map, of pods that are
// attached or about to be.
func (r *Registry) Endpoints() map[model.EndpointID]model.Endpoint {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := make(map[model.EndpointID]model.Endpoint, len(r.shown))
	for k := range r.shown {
		e := r.all[k].endpoint()
		m[e.ID] = e
	}
	return m
}

// InUse tells whether a link of this host has the address.
func (r *Registry) InUse(a netip.Addr) bool {
	_, used := r.user(a, key{})
	return used
}

// user returns who else than k has the address on a link.
func (r *Registry) user(ip netip.Addr, k key) (key, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	other, used := r.byAddr[ip]
	return other, used && other != k
}

// recordOf returns the attachment whose record has a name.
func (r *Registry) recordOf(id recordID) (*attachment, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k, known := r.byRecord[id]
	return r.all[k], known
}

// usersIn returns who has addresses of a range on links.
func (r *Registry) usersIn(p netip.Prefix) map[netip.Addr]*attachment {
	r.mu.Lock()
	defer r.mu.Unlock()
	var users map[netip.Addr]*attachment
	for ip, k := range r.byAddr {
		if p.Contains(ip) {
			if users == nil {
				users = map[netip.Addr]*attachment{}
			}
			users[ip] = r.all[k]
		}
	}
	return users
}

// set keeps a; the lock is held, or nobody else knows r yet.
func (r *Registry) set(a *attachment) {
	r.unset(a.key())
	r.all[a.key()] = a
	if a.Superseded || a.State == stateReleasing {
		return
	}
	r.byRecord[a.recordID()] = a.key()
	for _, ip := range a.Addresses {
		if _, used := r.byAddr[ip]; !used {
			r.byAddr[ip] = a.key()
		}
	}
}

// unset forgets k; the lock is held.
func (r *Registry) unset(k key) {
	a := r.all[k]
	if a == nil {
		return
	}
	delete(r.all, k)
	if r.byRecord[a.recordID()] == k {
		delete(r.byRecord, a.recordID())
	}
	for _, ip := range a.Addresses {
		if r.byAddr[ip] == k {
			delete(r.byAddr, ip)
		}
	}
}

// OnChange sets the function that is called, outside of any lock, after Endpoints changed, other
// than by an ADD, which calls Config.Apply itself. Set it before the Server is made.
func (r *Registry) OnChange(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.onChange = f
}

// get returns an attachment, which must not be changed.
func (r *Registry) get(k key) (*attachment, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.all[k]
	return a, ok
}

// list returns all attachments, sorted by key.
func (r *Registry) list() []*attachment {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*attachment, 0, len(r.all))
	for _, a := range r.all {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b *attachment) int { return strings.Compare(a.key().String(), b.key().String()) })
	return out
}

// visible returns the attachments behind Endpoints.
func (r *Registry) visible() []*attachment {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*attachment, 0, len(r.shown))
	for k := range r.shown {
		out = append(out, r.all[k])
	}
	return out
}

// shows tells whether a device is the host side of one of Endpoints.
func (r *Registry) shows(device string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := range r.shown {
		if r.all[k].Device == device {
			return true
		}
	}
	return false
}

// holder returns the attachment that has the host device, if any.
func (r *Registry) holder(device string) (*attachment, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.all {
		if a.Device == device && !a.Superseded && a.State != stateReleasing {
			return a, true
		}
	}
	return nil, false
}

// save writes a to the journal and keeps it; calls for one key are serialised by their callers. An
// entry that is among Endpoints keeps the MTU that it has, which only setMTU changes.
func (r *Registry) save(a attachment) error {
	defer r.lockFile(a.key())()
	old, known := r.get(a.key())
	if known && r.isShown(a.key()) {
		a.MTU = old.MTU
	}
	if err := r.write(&a, known); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.set(&a)
	return nil
}

// write puts a into its file, which is locked and, if known, there. The entry survives the death of
// the process, at any point. It is not forced to the disk: when the machine stops, its pods stop with
// it, an entry of an earlier boot is only cleaned up after, and what an entry that got lost would have
// named is found by its container at DEL.
func (r *Registry) write(a *attachment, known bool) error {
	b, err := encodeJournal(a)
	if err == nil {
		path := filepath.Join(r.dir, a.key().file())
		if !(known && appendFile(path, b)) && !(!known && r.spares.use(path, b)) {
			err = replaceFile(path, filepath.Join(r.dir, "."+a.key().file()), b)
		}
	}
	if err != nil {
		return fmt.Errorf("write journal entry %s: %w", a.key(), err)
	}
	return nil
}

// lockFile keeps others from writing the entry of k until the function that it returns is called.
func (r *Registry) lockFile(k key) (unlock func()) {
	h := fnv.New32a()
	_, _ = io.WriteString(h, k.container)
	m := &r.files[h.Sum32()%uint32(len(r.files))]
	m.Lock()
	return m.Unlock
}

func (r *Registry) isShown(k key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.shown[k]
}

// setMTU notes that both ends of the link of k are to have an MTU of so many bytes. An entry that is
// not among Endpoints any more stays as it is.
func (r *Registry) setMTU(k key, mtu int) error {
	defer r.lockFile(k)()
	old, known := r.get(k)
	if !known || old.MTU == mtu || !r.isShown(k) {
		return nil
	}
	a := *old
	a.MTU = mtu
	if err := r.write(&a, true); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all[k] == old { // else show replaced it
		r.set(&a)
	}
	return nil
}

// replaceFile writes b to path by way of tmp, so that path always has one content or the other.
func replaceFile(path, tmp string, b []byte) error {
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// appendFile adds a line to a file of whole lines: a fifth of what it costs to replace one. It
// returns false when that cannot be done; the file is then to be replaced.
func appendFile(path string, line []byte) bool {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() == 0 || st.Size()+int64(len(line)) > maxJournalFile {
		return false
	}
	_, err = f.Write(line)
	return err == nil
}

// lastLine returns the line of a file of whole lines that counts. A file that ends within a line is
// returned as it is: it is damaged.
func lastLine(b []byte) []byte {
	whole, ok := bytes.CutSuffix(b, []byte("\n"))
	if !ok {
		return b
	}
	return whole[bytes.LastIndexByte(whole, '\n')+1:]
}

// show puts a, which the journal has an earlier form of, among Endpoints. Its caller waits for
// Config.Apply at once, so that OnChange's function would only cause the same work twice.
func (r *Registry) show(a attachment) {
	r.mu.Lock()
	r.set(&a)
	r.shown[a.key()] = true
	r.mu.Unlock()
}

// hide takes k from Endpoints.
func (r *Registry) hide(k key) {
	r.mu.Lock()
	was, a, onHide := r.shown[k], r.all[k], r.onHide
	delete(r.shown, k)
	r.unlockAndTell(was)
	if was && a != nil && onHide != nil {
		onHide(a.id())
	}
}

// unlockAndTell releases the lock that its caller took, and then calls OnChange's function.
func (r *Registry) unlockAndTell(changed bool) {
	f := r.onChange
	r.mu.Unlock()
	if changed && f != nil {
		f()
	}
}

// remove forgets k, in memory and on disk.
func (r *Registry) remove(k key) error {
	r.hide(k) // setMTU leaves it alone from here on
	defer r.lockFile(k)()
	if err := r.spares.put(filepath.Join(r.dir, k.file())); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove journal entry %s: %w", k, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unset(k)
	return nil
}

// adopt puts those that are ready and whose device exists among Endpoints, and returns the ready
// ones whose device is gone.
func (r *Registry) adopt(devices map[string]kernel.Link) (gone []*attachment) {
	r.mu.Lock()
	for k, a := range r.all {
		if a.State != stateReady || a.Superseded {
			continue
		}
		if _, there := devices[a.Device]; there {
			r.shown[k] = true
		} else {
			gone = append(gone, a)
		}
	}
	r.unlockAndTell(len(r.shown) > 0)
	return gone
}
