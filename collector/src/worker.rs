//! The node's side of a query: leaf plans over its own store.
