package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
)

// A node sees the machine's file system with two differences, in a mount namespace of its own:
//
//   - /sys shows the node's network namespace, with the machine's control groups.
//   - /run is the directory run of the node's own, so that sockets and locks of well-known names
//     are never shared between nodes; /run/netns and the lab's directory show through.
//
// Namespaces that are made later appear in it, because it follows (MS_SLAVE) the machine's mounts.

// nodeView returns where a path of the machine below /run lies in a node's own directory.
func nodeView(nodeDir, path string) string {
	rest, ok := strings.CutPrefix(path, "/run/")
	if !ok {
		return filepath.Join(nodeDir, "run")
	}
	return filepath.Join(nodeDir, "run", rest)
}

// enterNodeMounts gives the calling thread, which must be locked and thrown away afterwards, a new
// mount namespace that shows what a node sees. Processes that the thread starts are in it.
func enterNodeMounts(labDir, nodeDir string) error {
	if err := enterSys(); err != nil {
		return err
	}
	for _, path := range []string{kernel.NetnsDir, labDir} {
		if !strings.HasPrefix(path, "/run/") {
			continue // not hidden by the node's /run
		}
		if err := unix.Mount(path, nodeView(nodeDir, path), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mount %s for the node: %w", path, err)
		}
	}
	if err := unix.Mount(filepath.Join(nodeDir, "run"), "/run", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount the node's /run: %w", err)
	}
	return nil
}

// enterSys gives the calling thread a new mount namespace in which /sys shows the thread's network
// namespace.
func enterSys() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace (needs root): %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("follow the machine's mounts: %w", err)
	}
	cgroups, err := unix.OpenTree(unix.AT_FDCWD, "/sys/fs/cgroup", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err == nil {
		defer unix.Close(cgroups)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("mount /sys for the network namespace: %w", err)
	}
	if err != nil {
		return nil // a machine without control groups there
	}
	err = unix.MoveMount(cgroups, "", unix.AT_FDCWD, "/sys/fs/cgroup", unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("mount the control groups: %w", err)
	}
	return nil
}

// joinMounts moves the calling thread, which must be locked and thrown away afterwards, into the
// mount namespace of a running process.
func joinMounts(pid int) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return fmt.Errorf("open the mount namespace of process %d: %w", pid, err)
	}
	defer f.Close()
	// A thread that shares its root and working directory with others may not change its mounts.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the working directory: %w", err)
	}
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the mount namespace of process %d: %w", pid, err)
	}
	return nil
}

// mount is a line of /proc/self/mountinfo.
type mount struct {
	point  string
	shared bool
}

// mounts reads the mount points of this process, in the order of mounting.
func mounts() ([]mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []mount
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for sc.Scan() {
		fields := strings.Fields(sc.Text())
		if len(fields) < 7 {
			continue
		}
		m := mount{point: unescape.Replace(fields[4])}
		for _, opt := range fields[6:] {
			if opt == "-" {
				break
			}
			m.shared = m.shared || strings.HasPrefix(opt, "shared:")
		}
		out = append(out, m)
	}
	return out, sc.Err()
}

// detachBelow unmounts whatever is mounted at or below dir, so that removing dir removes nothing
// but what is in it.
func detachBelow(dir string) error {
	ms, err := mounts()
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	for i := len(ms) - 1; i >= 0; i-- {
		p := ms[i].point
		if p != dir && !strings.HasPrefix(p, dir+"/") {
			continue
		}
		if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", p, err)
		}
	}
	return nil
}

// shareNetnsDir makes sure that namespaces mounted later under /run/netns appear in the nodes'
// mount namespaces too, as `ip netns add` does: the mount that holds the directory must be shared.
// What it changed is noted in a file beside the labs, so that the last lab can undo it.
func (l *Lab) shareNetnsDir() error {
	var did []string
	err := os.Mkdir(kernel.NetnsDir, 0o755)
	if err == nil {
		did = append(did, didMake)
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	ms, err := mounts()
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	holder := holderOf(ms, kernel.NetnsDir)
	if !holder.shared && holder.point == kernel.NetnsDir {
		did = append(did, didShare)
	} else if !holder.shared {
		did = append(did, didMount)
	}
	if len(did) == 0 {
		return nil
	}
	if err := os.WriteFile(l.netnsNote(), []byte(strings.Join(did, " ")), 0o600); err != nil {
		return err
	}
	if holder.shared {
		return nil
	}
	if slices.Contains(did, didMount) {
		if err := unix.Mount(kernel.NetnsDir, kernel.NetnsDir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mount %s on itself: %w", kernel.NetnsDir, err)
		}
	}
	if err := unix.Mount("", kernel.NetnsDir, "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share the mounts of %s: %w", kernel.NetnsDir, err)
	}
	return nil
}

// What shareNetnsDir may have done, as its note names it.
const (
	didMake  = "made"
	didMount = "mounted"
	didShare = "shared"
)

// holderOf returns the mount that dir lies in.
func holderOf(ms []mount, dir string) mount {
	var holder mount
	for _, m := range ms { // of two at one point, the later one covers the earlier
		if m.point == "/" || m.point == dir || strings.HasPrefix(dir, m.point+"/") {
			if len(m.point) >= len(holder.point) {
				holder = m
			}
		}
	}
	return holder
}

// unshareNetnsDir undoes shareNetnsDir once no namespace is left that would need it. Like
// shareNetnsDir it is called with the directory of labs locked.
func (l *Lab) unshareNetnsDir() error {
	note, err := os.ReadFile(l.netnsNote())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if left, err := os.ReadDir(kernel.NetnsDir); err != nil || len(left) > 0 {
		return err
	}
	did := strings.Fields(string(note))
	err = nil
	if slices.Contains(did, didMount) {
		err = unix.Unmount(kernel.NetnsDir, unix.UMOUNT_NOFOLLOW)
	} else if slices.Contains(did, didShare) {
		err = unix.Mount("", kernel.NetnsDir, "", unix.MS_PRIVATE, "")
	}
	if errors.Is(err, unix.EBUSY) {
		return nil // somebody else uses it now
	}
	if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: no mount point any more
		return fmt.Errorf("undo the mount of %s: %w", kernel.NetnsDir, err)
	}
	if slices.Contains(did, didMake) {
		if err := os.Remove(kernel.NetnsDir); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Remove(l.netnsNote())
}

// netnsNote is a file of this mount namespace: another one has another /run/netns.
func (l *Lab) netnsNote() string {
	id, err := inode("/proc/self/ns/mnt")
	if err != nil {
		return filepath.Join(l.root, ".netns")
	}
	return filepath.Join(l.root, fmt.Sprintf(".netns-%d", id[1]))
}
