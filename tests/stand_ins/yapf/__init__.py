"""Stands for yapf, with which MMEngine formats a config whenever it logs or saves one: seconds at each start."""

__version__ = '0.40.2'  # MMEngine calls FormatCode without verify=True from this one on
