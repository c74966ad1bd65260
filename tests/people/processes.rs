//! Signals, forks, limits of the system, and files left by what died.
