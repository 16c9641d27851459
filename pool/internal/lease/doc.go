// Package lease keeps account of who uses which pool of a set: the states of pools, the leases on
// them, the claim of the process that builds, and the queue of those who wait. It knows nothing of VMs.
//
// # The ledger
//
// All of it lies in the ledger of the set, in shards that are written one by one with
// compare-and-swap: one for each pool, one for the claim, some for the queue, and one for the leases
// that may keep a pool. Times are those of the ledger's own clock.
//
// # Pools and the claim
//
// A pool has a shard from the moment in which it is first ready, or first failed. Until then it
// belongs to the holder of the claim: Claim.Covers lists the pools that have no shard because
// they were never held. Only the holder of the claim makes the shard of such a pool. So
//
//   - who builds takes the claim, with the pools that it covers, then reads the shards, and leases
//     each pool that has one, as anybody else would;
//   - who leases a pool reads its shard together with the claim, and leaves alone what a live claim
//     covers.
//
// Who has the claim may lease pools under it, each by a write to its shard: such a lease lasts as long as
// the claim and is not renewed, so that to hold five hundred pools costs little more than one: with each
// renewal of the claim, one reading shows whether a shard was lost, which is written again. Who finds that the
// claim of such a lease is over reads the claim once more and, if it has expired, ends it by a write, before
// the lease is taken away: what was read together is of two moments, and the claim might be renewed still.
//
// A shard that is missing though no claim covers its pool was lost. Its pool is Recovering for as
// long as a lease lasts, in which its holder, if there is one, writes it again.
//
// # States
//
// Every pool is in one State, which is written down; leases, and the states that have an end, fall
// back to Dirty or Broken by themselves. Transitions are named, say from which states they may
// start, and nothing else changes an Entry.
package lease
