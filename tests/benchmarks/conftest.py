import sys

import nets

# The programs import each other by name, as they do when they are run from their folder.
sys.path.append(str(nets.ROOT / 'benchmarks'))
