"""Lists of words: stop words of seven languages, and lists that the user gives as files.

The stop words are function words (articles, pronouns, prepositions, conjunctions, auxiliaries, a few adverbs): some 130 to 230 forms that make
up 35 to 55 % of running prose. OBELICS' thresholds were published for English with a list of 260; `docs/text-rules.md` compares both.
"""

import functools
import hashlib
from pathlib import Path

from pipeline.text.text_arrays import Array, hash_words

STOP_WORDS: dict[str, str] = {
    "en": """
        a an the this that these those such same other another each every either neither both all any some no none many much more most few
        several enough own one ones
        i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it its itself
        they them their theirs themselves who whom whose which what whoever whatever whichever someone somebody something anyone anybody
        anything everyone everybody everything nobody nothing oneself
        am is are was were be been being do does did doing done have has had having can could may might must shall should will would ought
        get gets got getting made used use
        isn't aren't wasn't weren't don't doesn't didn't haven't hasn't hadn't can't cannot couldn't won't wouldn't shouldn't i'm i've i'd i'll
        you're you've you'd you'll he's she's it's we're we've we'd we'll they're they've that's there's here's what's who's let's
        about above across after against ago along alongside amid among around as at away before behind below beneath beside besides between
        beyond by despite down during except for from in inside into like near of off on onto out outside over past per since than through
        throughout to together toward towards under underneath until unto up upon versus via with within without
        and but or nor so yet if unless while whilst whereas because although though whether when whenever where wherever why how however
        not only also too even just again still already always never ever often once here there then thus hence therefore now very quite
        rather almost instead perhaps else further moreover including according due given based
    """,
    "de": """
        der die das den dem des ein eine einen einem einer eines kein keine keinen keinem keiner dieser diese dieses diesen diesem jener jene
        jenes jeder jede jedes jeden jedem alle allen aller alles viele vielen viel mehr wenig manche einige einigen andere anderen anderer
        beide beiden solche welcher welche welches
        ich mich mir mein meine meinen meinem meiner du dich dir dein deine er ihn ihm sein seine seinen seinem seiner sie ihr ihre ihren ihrem
        ihrer ihnen es wir uns unser unsere unseren euch euer eure man sich selbst wer wen wem was etwas nichts jemand niemand
        bin bist ist sind war waren warst sei seien wäre wären gewesen habe hast hat haben hatte hatten hätte hätten werde wird werden wurde
        wurden würde würden worden geworden kann können konnte konnten könnte muss müssen musste mussten soll sollen sollte sollten will wollen
        wollte darf dürfen durfte mag möchte lassen lässt
        in im ins an am ans auf aus bei beim bis durch für gegen hinter mit nach neben ohne seit trotz über um unter vom von vor während wegen
        zu zum zur zwischen
        und oder aber denn sondern sowie sowohl weder noch wenn als ob dass weil da damit obwohl indem bevor nachdem falls wie wo wann warum
        woher wohin dabei dazu daher dadurch darauf daran davon dafür hier dort dann also so auch nur schon sehr nicht nie immer wieder mal
        jetzt heute etwa bereits zwar doch ja nein eben
    """,
    "fr": """
        le la les un une des du de au aux ce cet cette ces mon ma mes ton ta tes son sa ses notre nos votre vos leur leurs tout toute tous
        toutes quelque quelques plusieurs chaque aucun aucune autre autres même mêmes tel telle tels telles quel quelle quels quelles
        je j'ai me moi tu te toi il elle on nous vous ils elles eux lui se soi en y qui que quoi dont où lequel laquelle lesquels celui celle
        ceux celles cela ça ceci rien personne
        suis es est sommes êtes sont étais était étaient étions sera seront serait soit être été étant ai as a avons avez ont avais avait avaient
        aura auront aurait avoir eu ayant fait faire font peut peuvent pouvait pouvoir pourrait doit doivent devait devoir faut va vont
        à dans par pour sur sous avec sans entre vers chez contre depuis pendant avant après devant derrière jusque jusqu'à selon parmi malgré
        dès lors hors
        et ou mais donc or ni car si comme quand lorsque lorsqu'il puis puisque parce afin ainsi alors aussi encore enfin ici là très plus moins
        peu beaucoup bien trop toujours jamais déjà non ne pas point seulement surtout
        c'est c'était qu'il qu'elle qu'on qu'un qu'une d'un d'une d'être n'est n'a s'est l'on s'il
    """,
    "es": """
        el la los las lo un una unos unas al del este esta esto estos estas ese esa eso esos esas aquel aquella aquellos aquellas mi mis tu tus
        su sus nuestro nuestra nuestros nuestras todo toda todos todas otro otra otros otras mismo misma mismos mismas cada algún alguna algunos
        algunas ningún ninguna mucho mucha muchos muchas poco pocos más menos tan tanto tal
        yo me mí tú te ti él ella ello nos nosotros vosotros os ellos ellas se sí le les usted ustedes que qué quien quién quienes cual cuál
        cuales cuyo cuya algo nada alguien nadie
        soy es somos son era eran fue fueron será serán sería sea sean ser sido siendo estoy está están estaba estaban estar he ha han había
        habían hay haya haber sido tiene tienen tenía tener puede pueden podía poder debe deben hace hacen hacer va van
        a ante bajo con contra de desde durante en entre hacia hasta mediante para por según sin sobre tras
        y e o u ni pero sino mas aunque porque pues si como cómo cuando cuándo donde dónde mientras así también tampoco además ya aún todavía
        siempre nunca muy bien solo sólo no luego después antes entonces ahora aquí allí
    """,
    "it": """
        il lo la i gli le l' un uno una del dello della dei degli delle al allo alla ai agli alle dal dallo dalla dai dagli dalle nel nello nella
        nei negli nelle sul sullo sulla sui sugli sulle col questo questa questi queste quello quella quelli quelle quel quei mio mia miei mie
        tuo tua suo sua suoi sue nostro nostra nostri loro tutto tutta tutti tutte altro altra altri altre stesso stessa ogni alcuni alcune
        molto molti molte poco più meno tanto tale
        io mi me tu ti te lui lei egli essa esso noi ci vi voi essi si sé ne che chi cui quale quali qualcosa qualcuno nulla niente nessuno
        sono sei è siamo siete era erano fu furono sarà saranno sarebbe sia siano essere stato stata stati state ho hai ha abbiamo hanno aveva
        avevano avrà avere avuto può possono poteva potrebbe deve devono fa fanno fare va viene vengono
        a di da in con su per tra fra senza sotto sopra dopo prima durante verso contro presso secondo fino
        e ed o od ma però se come quando dove mentre perché poiché quindi così anche ancora già sempre mai non né bene solo poi ora qui lì
        dell' all' dall' nell' sull' c'è cos'è dov'è com'è
    """,
    "pt": """
        o a os as um uma uns umas ao aos à às do da dos das no na nos nas num numa pelo pela pelos pelas este esta isto estes estas esse essa
        isso esses essas aquele aquela aquilo deste desta neste nesta desse nesse meu minha meus minhas teu tua seu sua seus suas nosso nossa
        nossos nossas todo toda todos todas outro outra outros outras mesmo mesma cada algum alguma alguns algumas nenhum muito muita muitos
        muitas pouco mais menos tão tanto tal
        eu me mim tu te ele ela eles elas nós vós você vocês se si lhe lhes que quem qual quais cujo cuja algo nada alguém ninguém tudo
        sou é somos são era eram foi foram será serão seria seja sejam ser sido sendo estou está estão estava estavam estar tenho tem têm tinha
        tinham ter havia há haver pode podem podia poder deve devem faz fazem fazer vai vão
        de em com por para sem sob sobre entre até desde contra após ante durante segundo
        e ou nem mas porém se como quando onde enquanto porque pois embora assim também ainda já sempre nunca muito bem só não então depois
        antes agora aqui ali lá
    """,
    "nl": """
        de het een der den des dit dat deze die zo'n elk elke ieder iedere alle alles veel vele meer meest weinig enkele sommige andere ander
        beide zulke welke welk geen
        ik mij me mijn jij je jou jouw u uw hij hem zijn zij ze haar hun hen wij we ons onze jullie men zich zelf wie wat iets niets iemand
        niemand
        ben bent is was waren geweest zijn heb hebt heeft hebben had hadden gehad word wordt worden werd werden geworden zal zullen zou zouden
        kan kunnen kon konden moet moeten moest moesten mag mogen mocht wil willen wilde laat laten gaat gaan ging doet doen
        aan achter behalve bij binnen boven buiten door gedurende in langs met na naar naast om omdat onder op over per sinds te tegen ten ter
        tijdens tot tussen uit van vanaf via voor voorbij volgens zonder
        en of maar want dus noch als toen wanneer terwijl hoewel indien zodat zoals waar waarom hoe er daar hier dan nu ook nog al wel niet nooit
        altijd weer zeer erg heel zo toch slechts alleen reeds echter daarom waarbij waarin waarop daarbij
    """,
}

GOPHER_STOP_WORDS = {"en": "the be to of and that have with"}  # arXiv:2112.11446, appendix A1.1


@functools.cache
def stop_words(language: str) -> Array | None:
    """The stop words of an ISO 639-1 language as hashes (`text_arrays.hash_words`), None where there is no list."""
    return hash_words(STOP_WORDS[language].split()) if language in STOP_WORDS else None


@functools.cache
def gopher_stop_words(language: str) -> Array | None:
    """Gopher's eight words as hashes, None for other languages than English."""
    return hash_words(GOPHER_STOP_WORDS[language].split()) if language in GOPHER_STOP_WORDS else None


@functools.cache
def read_word_list(path: str, *, flag: str) -> Array:
    """The words of a file as hashes: one per line, case does not matter, empty lines and those that begin with # do not count.

    Raises ValueError naming the file and `flag` if it cannot be read, holds no word, or holds a line that is more than one word.
    """
    return hash_words(read_words(path, flag=flag))


def read_words(path: str, *, flag: str) -> list[str]:
    """The words of a file, in lower case. Raises as `read_word_list` does."""
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{flag} {path} cannot be read as a list of words in UTF-8, one per line: {error}") from error
    words = [line.lower() for line in lines if line and not line.startswith("#")]
    if not words:
        raise ValueError(f"{flag} {path} holds no word; give a file with one word per line, or leave the flag out")
    for word in words:
        if len(word.split()) > 1:
            raise ValueError(f"{flag} {path} holds {word!r}, which is more than one word; texts are compared word by word, so give single words")
    return words


@functools.cache
def file_hash(path: str) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
