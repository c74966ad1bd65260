//! Fits: presets, budgets, few rows with many columns.
