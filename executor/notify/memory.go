package notify

import (
	"bytes"
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Memory is that of a process, by the id of any of its threads.
type Memory int

// Read fills b from address a, or returns how far it came.
func (m Memory) Read(a uint64, b []byte) int { return m.move(unix.SYS_PROCESS_VM_READV, a, b) }

// move copies between b and address a. b may be on the stack: nothing keeps it, and no other thread is let in between.
func (m Memory) move(how uintptr, a uint64, b []byte) int {
	if len(b) == 0 {
		return 0
	}
	local := unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))}
	remote := unix.RemoteIovec{Base: uintptr(a), Len: len(b)}
	n, _, e := unix.RawSyscall6(how, uintptr(m), uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&remote)), 1, 0)
	if e != 0 {
		return 0
	}
	return int(n)
}

// ReadFull fills b from address a; anything less is EFAULT.
func (m Memory) ReadFull(a uint64, b []byte) error {
	if m.Read(a, b) != len(b) {
		return unix.EFAULT
	}
	return nil
}

// Write writes b to address a; anything less is EFAULT.
func (m Memory) Write(a uint64, b []byte) error {
	if m.move(unix.SYS_PROCESS_VM_WRITEV, a, b) != len(b) {
		return unix.EFAULT
	}
	return nil
}

// PageSize is the least that memory is mapped in, in bytes.
const PageSize = 4096

// Text reads a string that ends with a zero byte, of at most limit bytes; tooLong is the error for more.
func (m Memory) Text(a uint64, limit int, tooLong unix.Errno) (string, error) {
	if a == 0 {
		return "", unix.EFAULT
	}
	var out []byte
	var buf [PageSize]byte
	// Most strings are short; what is beyond the next page may not be there.
	for size := uint64(256); len(out) <= limit; size = PageSize {
		n := m.Read(a, buf[:min(size, PageSize-a%PageSize)])
		if n <= 0 {
			return "", unix.EFAULT
		}
		if i := bytes.IndexByte(buf[:n], 0); i >= 0 {
			return string(append(out, buf[:i]...)), nil
		}
		out = append(out, buf[:n]...)
		a += uint64(n)
	}
	return "", tooLong
}

// Path reads a path name.
func (m Memory) Path(a uint64) (string, error) { return m.Text(a, unix.PathMax, unix.ENAMETOOLONG) }

// Pointers reads an array of pointers that ends with a null.
func (m Memory) Pointers(a uint64) ([]uint64, error) {
	var out []uint64
	var buf [PageSize]byte
	for size := uint64(256); len(out) < 1<<20; size = PageSize {
		n := m.Read(a, buf[:min(size, PageSize-a%PageSize)&^7])
		if n < 8 {
			return nil, unix.EFAULT
		}
		for i := 0; i+8 <= n; i += 8 {
			p := binary.NativeEndian.Uint64(buf[i:])
			if p == 0 {
				return out, nil
			}
			out = append(out, p)
		}
		a += uint64(n &^ 7)
	}
	return nil, unix.E2BIG
}

// Words writes numbers to address a.
func (m Memory) Words(a uint64, words ...uint32) error {
	var b []byte
	for _, w := range words {
		b = binary.NativeEndian.AppendUint32(b, w)
	}
	return m.Write(a, b)
}

// BytesOf is the memory of a kernel structure.
func BytesOf[T any](v *T) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)) }
