"""Model files as text: one small model in both formats, and changes to it."""

# Every sign of RANGES, every kind of bound, two free rows, an offset (-RHS of the objective).
RANGES = """NAME T
ROWS
 N cost
 L up
 G low
 E plus
 E minus
 N spare
COLUMNS
    a cost 1 up 1
    a plus 1 spare 7
    b cost -2 low 1
    b minus 1
    d cost 1 up 1
    d low 1 minus 1
    e cost 3 plus 2
    f cost -1 up -1
RHS
    R cost -10 up 8
    R low 1 plus 4
    R minus 2
RANGES
    R up 5 low 6
    R plus 3 minus -2
BOUNDS
 FR B a
 UP B b 4
 MI B d
 UP B d -1
 FX B e 0.5
 LO B f -2
 UP B f 9
ENDATA
"""

LP_TEXT = "Minimize\n obj: x + 2 y\nSubject To\n c1: x + y >= 1\n{}End\n"
MPS_TEXT = "NAME\nROWS\n N o\n G r\nCOLUMNS\n x o 1 r 1\n y o 1 r 1\nRHS\n R r 1\n{}"


def lp_text(change: str = "", to: str = "", *, rows: str = "") -> str:
    return LP_TEXT.format(rows).replace(change, to, 1)


def mps_text(change: str = "", to: str = "", *, sections: str = "") -> str:
    return MPS_TEXT.format(sections + "ENDATA\n").replace(change, to, 1)


INTEGERS = mps_text(" x o", " M 'MARKER' 'INTORG'\n x o").replace("RHS\n", " M 'MARKER' 'INTEND'\nRHS\n")
