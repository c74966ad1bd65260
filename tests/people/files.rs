//! Files people have: empty shards, NaN in one of many, archives, pipes, existing outputs.
