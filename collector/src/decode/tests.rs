//! Decoding as a whole, beside the tests of its parts.
