// Package netsim models the networks of a lab: layer-2 segments with VLAN tags, machines with
// interfaces, routes, a packet filter and masquerading, DHCP, and the services that machines offer.
//
// Nothing is sent as packets. Every Ping, Exchange and Dial walks the path that a packet would
// take, hop by hop, with the configuration that machines have at that moment, and then the
// path of the answer. It succeeds only if both exist: link state, addresses, VLAN tags, routes,
// forwarding, masquerading and filters all have a say. What would be a timeout in reality
// is an error at once: the model is faster than a network, never more forgiving. Two
// machines with one address on a segment cannot reach others reliably, so here they cannot at all.
//
// Not modelled: bandwidth, loss, the MTU's effect on big packets, ARP caches, reverse path
// filters, and the end of established connections when a path goes away.
package netsim
