//! Evaluation as people do it: embeddings that are there already, several prompts a class, names of rows.
