"""What every program needs beside the paper: user errors, atomic files, locks, progress bars."""
