module lvs

go 1.26

require (
	github.com/gopacket/gopacket v1.7.7
	pgregory.net/rapid v1.3.0
)
