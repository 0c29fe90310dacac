"""The ablation study (§3, §4): its runs, the processes that train them, and its table."""
