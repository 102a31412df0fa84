"""Several ranks that train one model: their layout and its checks, their groups, and what CPU processes need for it."""
