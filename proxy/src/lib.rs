//! JSON-RPC in → decision → attempts → reply, and the record of it.
