// Package integration has the tests of what only the kernel can show: whole
// daemons in network namespaces, killed, frozen and cut off, with the loss
// counted. It has no code but tests.
//
// They need root and skip without. Some need nft besides, and say so. MESHD_SOAK
// sets how long TestSoak runs, MESHD_SEED repeats a run of the random tests, and
// MESHD_BINARY tests a program that is built already.
package integration
