"""Polynomials: domain, terms, evaluation, monomials, equation, module."""
