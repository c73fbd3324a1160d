package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
)

const (
	// idVariable marks the processes of a lab: NAME@ID.
	idVariable = "WEFT_LAB_ID"
	// logTail is how much of a log an error shows, in lines.
	logTail = 10
	// killWait is how long a killed process may take to be gone.
	killWait = 10 * time.Second
	exitPoll = 10 * time.Millisecond
)

// keptEnv are the variables that a process of the lab takes over from the caller.
var keptEnv = []string{"PATH", "HOME", "LANG", "TZ", "TMPDIR", "GOCOVERDIR", "GODEBUG", "GOTRACEBACK"}

// startProcess starts p detached from this one, with its output in a log file, and records it.
func (l *Lab) startProcess(p Process, id string) (procRecord, error) {
	fail := func(err error) (procRecord, error) {
		return procRecord{}, fmt.Errorf("start %s: %w", p.Name, err)
	}
	if err := prepareDirs(l.dir, p); err != nil {
		return fail(err)
	}
	log, err := os.OpenFile(logPath(p.Dir), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fail(err)
	}
	defer log.Close()
	cmd := exec.Command(l.binary, p.Args...)
	cmd.Env = append(l.processEnv(id), p.Env...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	rec := procRecord{Name: p.Name, Boot: bootID()}
	// The record is there before the process: a crash between the two leaves a process without a
	// pid in its record, which down finds by its namespace and its environment.
	if err := writeJSON(procPath(l.dir, p.Name), rec); err != nil {
		return fail(err)
	}
	err = kernel.Do(kernel.NetnsPath(p.Namespace), func() error {
		if p.Own {
			if err := enterNodeMounts(l.dir, p.Dir); err != nil {
				return err
			}
		}
		return cmd.Start()
	})
	if err != nil {
		return fail(err)
	}
	if err := l.fault("started " + p.Name); err != nil {
		return rec, err
	}
	rec.PID = cmd.Process.Pid
	if rec.Start, _, err = procStat(rec.PID); err != nil {
		return fail(err)
	}
	if err := writeJSON(procPath(l.dir, p.Name), rec); err != nil {
		return fail(err)
	}
	return rec, cmd.Process.Release()
}

func logPath(dir string) string { return filepath.Join(dir, "log") }

// prepareDirs makes what the process finds when it starts.
func prepareDirs(labDir string, p Process) error {
	dirs := []string{p.Dir, filepath.Join(p.Dir, "data")}
	if p.Own {
		dirs = append(dirs, runDir(p.Dir), nodeView(p.Dir, kernel.NetnsDir), nodeView(p.Dir, labDir))
	}
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) processEnv(id string) []string {
	env := []string{idVariable + "=" + l.name + "@" + id}
	for _, k := range keptEnv {
		if v, ok := os.LookupEnv(k); ok {
			env = append(env, k+"="+v)
		}
	}
	return env
}

// alive tells whether the recorded process still runs: the pid, started at that time, in this boot.
func (r procRecord) alive() bool {
	if r.PID <= 0 || r.Boot != bootID() {
		return false
	}
	reap(r.PID)
	start, dead, err := procStat(r.PID)
	return err == nil && !dead && start == r.Start
}

// signal sends sig if the recorded process still runs; it never reaches another that has its pid
// now, because the signal goes by pidfd.
func (r procRecord) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(r.PID, 0)
	if errors.Is(err, unix.ESRCH) || r.PID <= 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", r.PID, err)
	}
	defer unix.Close(fd)
	if !r.alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %v to process %d: %w", sig, r.PID, err)
	}
	return nil
}

// waitGone waits until the process has ended.
func (r procRecord) waitGone(ctx context.Context) error {
	for r.alive() {
		if !sleep(ctx, exitPoll) {
			return fmt.Errorf("process %d (%s) is still running: %w", r.PID, r.Name, context.Cause(ctx))
		}
	}
	return nil
}

// reap collects the process if it is a child of ours that has ended, so that a program which
// brings labs up and down leaves no zombies. Others' children are left alone by the kernel.
func reap(pid int) { _, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) }

// procStat reads a process's start time in clock ticks since boot, and whether it has ended and
// only waits to be collected.
func procStat(pid int) (start uint64, dead bool, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false, err
	}
	// The command name, in parentheses, may hold anything: fields count from the last ')'.
	_, rest, ok := cutLast(string(b), ")")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return 0, false, fmt.Errorf("read /proc/%d/stat: %q is cut short", pid, b)
	}
	start, err = strconv.ParseUint(f[19], 10, 64)
	// While other threads are still on their way out (proc_pid_stat(5), num_threads), they hold locks.
	return start, (f[0] == "Z" || f[0] == "X") && f[17] <= "1", err
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// strays returns the pids of processes that belong to the lab: they run in one of its network
// namespaces (device and inode), or carry its id. This process and those above it are left out.
func strays(namespaces map[[2]uint64]bool, id string) ([]int, error) {
	above := map[int]bool{}
	for pid := os.Getpid(); pid > 1 && !above[pid]; pid = parentOf(pid) {
		above[pid] = true
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || above[pid] {
			continue
		}
		if _, dead, err := procStat(pid); err != nil || dead {
			continue
		}
		if ns, err := inode(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil && namespaces[ns] {
			pids = append(pids, pid)
			continue
		}
		env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if id != "" && strings.Contains("\x00"+string(env), "\x00"+idVariable+"="+id+"\x00") {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func parentOf(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := cutLast(string(b), ")")
	f := strings.Fields(rest)
	if len(f) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(f[1])
	return ppid
}

// inode returns a file's device and inode number.
func inode(path string) ([2]uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return [2]uint64{}, err
	}
	return [2]uint64{uint64(st.Dev), st.Ino}, nil
}

// tail returns the last lines of a process's log.
func tail(dir string) []string {
	f, err := os.Open(logPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return []string{err.Error()}
	}
	defer f.Close()
	const most = 8 << 10
	if st, err := f.Stat(); err == nil && st.Size() > most {
		_, _ = f.Seek(-most, 2)
	}
	b := make([]byte, most)
	n, _ := f.Read(b)
	lines := strings.Split(strings.TrimRight(string(b[:n]), "\n"), "\n")
	return lines[max(0, len(lines)-logTail):]
}
