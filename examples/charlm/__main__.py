import sys

from examples.charlm.charlm import main

main(sys.argv[1:])
