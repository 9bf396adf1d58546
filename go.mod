module lvs

go 1.26.0

require (
	github.com/cilium/ebpf v0.22.0
	github.com/vishvananda/netlink v1.3.1
	github.com/vishvananda/netns v0.0.5
	pgregory.net/rapid v1.3.0
)

require golang.org/x/sys v0.49.0 // indirect
