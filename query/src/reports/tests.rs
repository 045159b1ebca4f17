//! Reports over rows in memory, against figures counted by hand.
