"""Write reports: pages, figures and tables."""
