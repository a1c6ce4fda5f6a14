//! Live look-ups against servers that we did not write, and against hostile ones.

mod cache;
mod directory;
mod fake;
mod hostile;
mod table;
mod zones;
