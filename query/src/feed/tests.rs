//! The feed on a paused clock and over real sockets.
