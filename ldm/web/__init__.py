"""The web page, and the API that clients of AUTOMATIC1111's web UI speak.  Needs the extra `web`; see scripts/webui.py.

`jobs` and `studio` know neither page nor API: a `Studio` has the model and draws orders, a `Queue` lets them take
turns.  No other part of the library imports this one.
"""
