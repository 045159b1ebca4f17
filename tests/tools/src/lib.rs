//! Scripted providers, load generators, a faulty TCP relay and a bare forwarding proxy: one implementation for the
//! demo, the tests and the benchmarks.
