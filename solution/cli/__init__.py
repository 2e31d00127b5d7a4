"""Commands that use the solution. They join `week3` by entry points, see pyproject.toml.

output.py    what they share: text on a terminal, ends
models.py    week3 model
generate.py  week3 generate
rag.py       week3 rag
agent.py     week3 agent; agent_eval.py is its eval
talk.py      a run of it on a terminal: what is shown, approval, Ctrl-C
trace.py     week3 trace

As in grading/cli.py, a command imports what it needs when it runs.
"""
