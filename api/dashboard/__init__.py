"""The dashboard: pages for people, rendered by the server from what the API's own services answer.

`browser` stands before every page: security headers, the Origin of changes, errors as pages. `session` signs
people in. `render` and `templates/` make HTML; `live` keeps an open page up to date; `pages/` has the routes.
"""
