"""A fuzzer: hostile inputs by the thousand, each of which is accepted or refused in the package's own words.

python -m tests.fuzz                                    all targets, a thousand inputs each
python -m tests.fuzz graphs flags --inputs 20000 --seed 1
python -m tests.fuzz graphs --seed 1 --replay 4711      one input again, in this process, with its traceback
"""
