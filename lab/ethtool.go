// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The requests of SIOCETHTOOL that set a feature (linux/ethtool.h).
const (
	setTxChecksum = 0x17 // ETHTOOL_STXCSUM
	setGRO        = 0x2c // ETHTOOL_SGRO
)

// setFeature switches a feature of an interface of the namespace that the thread is in.
func setFeature(iface string, request uint32, on bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := struct{ request, on uint32 }{request: request}
	if on {
		value.on = 1
	}
	var ifreq struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifreq.name[:unix.IFNAMSIZ-1], iface)
	ifreq.data = unsafe.Pointer(&value)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifreq)))
	runtime.KeepAlive(&value)
	if errno != 0 {
		return errno
	}
	return nil
}
