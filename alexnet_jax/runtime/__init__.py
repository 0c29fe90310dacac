"""What every program needs beside the paper: errors, signals, paths, printing, files, locks."""
