"""The processes that train one net together: how they start, agree, wait for each other and end."""
