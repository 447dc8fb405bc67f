"""A fuzzer: thousands of hostile inputs, each of which must be accepted or refused in the package's own words.

python -m tests.fuzz                                    all targets, a thousand inputs each
python -m tests.fuzz graphs flags --inputs 20000 --seed 1
python -m tests.fuzz graphs --replay BLOB               one input again, in this process, with its traceback

hypothesis generates the inputs, shrinks those that fail, and runs them first the next time.
"""
