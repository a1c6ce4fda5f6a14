//! Two transports and the network between them, with a fake clock.
